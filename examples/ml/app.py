"""A prediction over HTTP: /predict?sepal_length=5.1&sepal_width=3.5&petal_length=1.4&petal_width=0.2"""

import os

import pandas as pd
import waitress
from flask import Flask, request
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

iris = load_iris(as_frame=True)
features = {name.removesuffix(" (cm)").replace(" ", "_"): name for name in iris.feature_names}
model = LogisticRegression(max_iter=1000).fit(iris.data, iris.target)
app = Flask(__name__)


@app.get("/")
def usage() -> str:
    return f"{__doc__}\n"


@app.get("/predict")
def predict() -> dict[str, object]:
    values = {column: [request.args.get(name, type=float, default=0.0)] for name, column in features.items()}
    chances = model.predict_proba(pd.DataFrame(values))[0]
    return {
        "species": str(iris.target_names[chances.argmax()]),
        "probability": round(float(chances.max()), 3),
    }


if __name__ == "__main__":
    waitress.serve(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
